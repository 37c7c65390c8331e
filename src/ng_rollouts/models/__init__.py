"""Model servers: OpenAI-compatible endpoints, asked in the words of the Responses API whatever they speak."""
