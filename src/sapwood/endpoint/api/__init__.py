"""OpenAI's and Anthropic's requests, answered by what is served."""
