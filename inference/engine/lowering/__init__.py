"""From a traced graph to machine code: C text, the compiler that takes it, the cache of both."""
