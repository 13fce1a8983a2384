"""What the demo continues when it is given nothing: beginnings in the model's field."""

PROMPTS = (
    "The if statement is used for conditional execution:",
    "A function definition defines a user-defined function object",
    "The for statement is used to iterate over the elements of a sequence",
    "Class definitions may be",
    "The import statement ",
    "An expression list containing at least one comma yields a tuple.",
    'When an "await" expression is used,',
    "The try statement specifies exception handlers",
    "A generator function is a function which",
    "String and bytes literals",
    "The with statement is used to wrap the execution of a block",
    "Lambda expressions ",
    "If the attribute is not found,",
    'The "global" statement',
    "Dictionaries are created by",
    "Coroutine objects are awaitable",
)
