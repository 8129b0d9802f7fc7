"""What one objective's training is worth to the other."""

from plm_scaling.transfers.transfer_fit import TransferFit, TransferPair

__all__ = ["TransferFit", "TransferPair"]
