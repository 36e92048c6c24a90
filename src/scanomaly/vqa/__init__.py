"""Visual question answering: from an image, its anomaly map and its reconstruction to words."""
