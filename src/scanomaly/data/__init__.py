"""Files to batches: manifests, images, masks, augmentation. Loads no torch by itself."""
