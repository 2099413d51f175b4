"""The data sets, one file each: this folder is their registry."""
