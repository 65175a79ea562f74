"""What a trained model is for: one file a verb, each a function of a `Bundle` that gives arrays in the source's form."""
