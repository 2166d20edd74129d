"""Fast linearizability checkers for objects into which no value is written twice."""
