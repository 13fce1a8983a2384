"""Every fence of the library taken away, one at a time.

source.py     finds the comments that name a hazard, and takes away what stands behind them
pipelines.py  programs that need a fence
registry.py   for each fence: a program that needs it, or why it is redundant there
"""
