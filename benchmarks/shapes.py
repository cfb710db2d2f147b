"""Parameter tables to measure with."""

Shape = tuple[int, ...]


def transformer(num_elements: int) -> list[tuple[str, Shape]]:
    """Names and shapes of a GPT-like model of about `num_elements` parameters, front to back.

    An embedding of 8192 rows and as many layers of width 512 as fit; the last layers' MLP is widened to come close.
    """
    width, rows = 512, 8192
    table: list[tuple[str, Shape]] = [("embedding.weight", (rows, width))]
    layer: list[tuple[str, Shape]] = [
        ("attention.in.weight", (3 * width, width)),
        ("attention.in.bias", (3 * width,)),
        ("attention.out.weight", (width, width)),
        ("attention.out.bias", (width,)),
        ("norm1.weight", (width,)),
        ("norm1.bias", (width,)),
        ("mlp.in.weight", (4 * width, width)),
        ("mlp.in.bias", (4 * width,)),
        ("mlp.out.weight", (width, 4 * width)),
        ("mlp.out.bias", (width,)),
        ("norm2.weight", (width,)),
        ("norm2.bias", (width,)),
    ]
    layer_elements = sum(elements(shape) for _, shape in layer)
    num_layers = max(1, (num_elements - rows * width) // layer_elements)
    for number in range(num_layers):
        table += [(f"layers.{number}.{name}", shape) for name, shape in layer]
    missing = num_elements - sum(elements(shape) for _, shape in table)
    if missing >= width:
        table.append(("head.weight", (missing // width, width)))
    return table


def elements(shape: Shape) -> int:
    """Of a tensor of this shape."""
    product = 1
    for extent in shape:
        product *= extent
    return product
