"""The transports that come with aioioth: one module for each VNL scheme.

They are found through entry points like anyone's, so nothing is imported here.
"""
