"""Certificates: a network's forward recorded, its bound proved, and the attack on it."""

from .certificate import Certificate, Counterexample, plot_certificate
from .certify_model import certify
from .pgd import FGSM, Model, attack, correct, fgsm, margin_loss
from .rules import layer, operation

__all__ = [
    "FGSM",
    "Certificate",
    "Counterexample",
    "Model",
    "attack",
    "certify",
    "correct",
    "fgsm",
    "layer",
    "margin_loss",
    "operation",
    "plot_certificate",
]
