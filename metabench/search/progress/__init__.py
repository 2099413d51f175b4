"""How a search stands: the live table, TensorBoard, and its status."""
