"""What a trained model is used for: translating, scoring, generating."""
