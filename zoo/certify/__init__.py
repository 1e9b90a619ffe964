"""Certificates: the proof, the attack on it, what both return, and a rule for each layer."""

from .certificate import Certificate, plot_certificate
from .certify_model import certify
from .pgd import FGSM, Model, attack, correct, fgsm, margin_loss

__all__ = [
    "FGSM",
    "Certificate",
    "Model",
    "attack",
    "certify",
    "correct",
    "fgsm",
    "margin_loss",
    "plot_certificate",
]
