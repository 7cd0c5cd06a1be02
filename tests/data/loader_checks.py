"""What the tests of loaders have in common."""


def take(loader, count):
    """The next ``count`` batches, over the ends of epochs, with the state after each."""
    found = []
    while True:
        for batch in loader:
            found.append((batch, loader.state_dict()))
            if len(found) == count:
                return found
