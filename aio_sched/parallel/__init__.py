"""Several ranks that serve together: what they exchange, and what each decides from it.

group.py         ``RankGroup``: the contract of a group of ranks
"""
