"""What methods share: tensor functions, options, and the distillers that families of methods build on."""
