"""What follows the trials: confirmation, final runs, meta-test; and the plan of it all."""
