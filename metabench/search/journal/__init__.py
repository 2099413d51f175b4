"""What happened in a search, in the order in which it happened, and the rule that it follows."""
