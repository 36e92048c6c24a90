from methods.tiny_detectors import weights

__all__ = ["weights"]
