"""From "keep T visual tokens" to the count at every stage, one file per method's rule.

Plain Python without numpy or torch: the budget is chosen per request, on the device. It knows counts only,
neither tensors nor graphs.
"""
