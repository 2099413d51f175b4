"""Files of images and arrays: fetched, unpacked, decoded once and kept."""
