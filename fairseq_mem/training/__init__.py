"""What training uses besides the model: criterion, optimizer, dropout."""
