"""The database and its topics: what was committed is published, and what the topics know is learnt again."""
