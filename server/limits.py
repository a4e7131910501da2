"""How much a request may hold: one table of sizes and counts. Numbers only; ranges of values stand beside their fields.

The size of a whole body, the length of its headers and times are settings of a server (server/settings.py).
"""

# Of a whole body: values of JSON, whatever they are.
MAX_BODY_VALUES = 1_200_000

# Of any text and number. A text is a prompt or a message, a name is what identifies something.
MAX_TEXT_CHARACTERS = 16 * 2**20
MAX_NAME_CHARACTERS = 512
MAX_INTEGER = 2**31 - 1  # of what no API bounds more closely
MAX_TOKENS = 2**31 - 1
MAX_IDS = 1 << 20  # in one list of token ids

# Of one request for continuations.
MAX_PROMPTS = 2048  # also of texts to embed, and of continuations in all
MAX_CHOICES = 128
MAX_TRIES = 20
MAX_BEAMS = 32
MAX_LOGPROBS = 20
MAX_PRIORITY = 100
MAX_STOPS = 256
MAX_STOP_CHARACTERS = 4096
MAX_STOPS_CHARACTERS = 1 << 15  # of all stop strings of a request together
MAX_STOP_IDS = 1024
MAX_BIASES = 16384
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_CHARACTERS = 256

# Of a conversation.
MAX_MESSAGES = 16384
MAX_PARTS = 4096
MAX_CALLS = 1024  # of one message
MAX_TEMPLATE_VARIABLES = 32
MAX_TEMPLATE_VARIABLE_CHARACTERS = 4096
MAX_INCLUDED = 64
MAX_METADATA = 16

# Of tools, and of any JSON whose shape the client chooses.
MAX_TOOLS = 1024
MAX_FUNCTION_NAME_CHARACTERS = 256
MAX_OBJECT_DEPTH = 64
MAX_OBJECT_VALUES = 100_000

# Of what an answer has to look like.
MAX_SCHEMA_CHARACTERS = 1 << 18  # also of all functions' schemas together, where a call is forced
MAX_PATTERN_CHARACTERS = 1 << 14
MAX_GRAMMAR_CHARACTERS = 1 << 15
MAX_WORDS = 8192  # to choose from
MAX_SENT_GRAMMAR_CHARACTERS = 1 << 24  # a grammar's length times the choices that follow it

# Of texts that are compared.
MAX_PAIRS = 2048

# Of decisions.
MAX_QUESTIONS = 400
MAX_OPTIONS = 255  # of a choice
MAX_LEVELS = 10  # of a score
