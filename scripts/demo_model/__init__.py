"""The parts of `scripts/train_demo_model.py`: corpus, dialogues, tokenizer, model, training, export, evaluation."""
