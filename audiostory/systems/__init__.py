"""The systems that are compared: ours, with the planner or given the truth, and the baselines of the paper's table 1.

Each tells the same stories (`asked`) into a folder of its own (`telling`); the benchmark reads the folders and never
meets a system.
"""
