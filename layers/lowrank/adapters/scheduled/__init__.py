"""Presets that act around optimiser steps: ranks that are drawn, shrink, grow, or are chosen."""
