"""Other people's detectors on our images, features and run folders: anomalib's models."""

from scanomaly.methods.outside.detector import AnomalibDetector

__all__ = ["AnomalibDetector"]
