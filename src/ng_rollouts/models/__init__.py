"""Model servers: OpenAI-compatible endpoints, called through the Responses API or Chat Completions."""
