"""Many methods at many budgets in one report: accuracy, times and memory per cell, and which budget they speak for."""
