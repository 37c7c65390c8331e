"""HTTP: one client interface over two engines, load balancing, rate limiting."""
