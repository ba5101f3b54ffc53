"""What tests share: small models, texts, commands, and slow references to compare with."""
