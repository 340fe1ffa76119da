"""What runs are worth: recorded runs read back, statistics with intervals, costs, and a page that shows all of it."""
