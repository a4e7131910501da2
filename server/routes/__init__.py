"""One file per resource. A route validates, finds the model, and says what the answer looks like."""
