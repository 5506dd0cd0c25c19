"""The OpenAI, Anthropic and Gemini Batch APIs on loopback. Imports nothing of the rest of the package."""
