"""The cards that `zoo list --data NAME` prints, one text file per data set."""
