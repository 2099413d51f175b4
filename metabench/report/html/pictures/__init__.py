"""The families of pictures, one file each: functions from what was read to figures with their words."""
