"""Generation: requests, sampling, the loop that writes codes."""
