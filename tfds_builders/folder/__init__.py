"""A user's own data: nnU-Net style scans with masks, or images with COCO or Pascal VOC boxes."""
