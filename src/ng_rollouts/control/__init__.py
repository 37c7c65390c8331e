"""Control of a run from outside: the commands, the socket that takes them, and who sends them."""
