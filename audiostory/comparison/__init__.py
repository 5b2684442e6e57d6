"""Systems side by side: who tells, what is asked, and the reports. Start with `soundworld.py` or `recordings.py`."""
