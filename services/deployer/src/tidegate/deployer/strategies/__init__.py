"""Ways to deliver: which weights a candidate gets, and what stands between it and the next one."""
