"""Text: reading it, finding its tokens, texts as codes and back."""
