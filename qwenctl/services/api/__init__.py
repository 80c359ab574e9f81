"""OpenAI's and Anthropic's bodies to messages and options, and replies back to answers. Knows no HTTP and no engine."""
