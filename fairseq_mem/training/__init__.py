"""What training uses beside the model: criterion, optimizer, dropout."""
