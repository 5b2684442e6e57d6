import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from audiostory.story import SPECIAL_TOKENS, Vocabulary, add_special_tokens


@pytest.fixture(scope="module")
def full_size() -> Tokenizer:
    """A stand-in for Qwen2.5's tokenizer: 151643 words and its 22 added tokens."""
    words = {f"w{i}": i for i in range(151643)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(19))]
    tokenizer.add_special_tokens([AddedToken(name) for name in added])
    add_special_tokens(tokenizer)
    return tokenizer


def test_full_size_ids_are_the_released_ones(full_size):
    vocabulary = Vocabulary(full_size, num_semantic=100, num_residual=501)
    assert len(SPECIAL_TOKENS) == 612
    assert len(vocabulary) == 152277
    assert (vocabulary.im_start, vocabulary.im_end) == (151644, 151645)
    assert vocabulary.stop_ids == (151645, 151643)
    assert (vocabulary.semantic_close, vocabulary.semantic_open) == (151665, 151669)
    assert vocabulary.listening == 151666
    assert (vocabulary.timestamp, vocabulary.end_timestamp) == (151667, 151668)
    assert vocabulary.semantic_ids == tuple(range(151670, 151770))
    assert (vocabulary.residual_open, vocabulary.residual_close) == (151770, 151771)
    assert vocabulary.residual_ids == tuple(range(151772, 152273))
    assert (vocabulary.gen, vocabulary.end_gen, vocabulary.think, vocabulary.end_think) == tuple(range(152273, 152277))
    assert vocabulary.semantic_block == (*vocabulary.semantic_ids, 151665)
    assert vocabulary.residual_block == (*vocabulary.residual_ids, 151771)


def test_every_special_token_is_encoded_as_its_own_id(full_size):
    vocabulary = Vocabulary(full_size, num_semantic=64, num_residual=8)
    assert vocabulary.encode("".join(SPECIAL_TOKENS)) == list(range(151665, 152277))


def test_golden_ids_agree(golden, vocabulary):
    for name, ids in golden["token_ids"].items():
        assert vocabulary.encode(name) == ids
    assert len(vocabulary) == golden["len_tokenizer"]
    assert vocabulary.semantic_ids == tuple(range(350, 358))
    assert vocabulary.residual_ids == tuple(range(372, 376))


def test_golden_texts_give_their_ids_and_back(golden, vocabulary):
    for case in golden["tokenize_cases"]:
        assert vocabulary.encode(case["text"]) == case["ids"]
        assert vocabulary.decode(case["ids"]) == case["decoded"]


def test_missing_tokens_are_named():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    add_special_tokens(tokenizer)
    with pytest.raises(ValueError, match=r"lacks <\|endoftext\|>, <\|im_start\|>, <\|im_end\|>"):
        Vocabulary(tokenizer, num_semantic=1, num_residual=1)


def test_more_bridge_tokens_than_names_are_refused(vocabulary):
    with pytest.raises(ValueError, match=r"lacks <t5_00020>; .* fewer bridge tokens"):
        Vocabulary(vocabulary.tokenizer, num_semantic=21, num_residual=4)
    with pytest.raises(ValueError, match="num_residual=0"):
        Vocabulary(vocabulary.tokenizer, num_semantic=8, num_residual=0)


def test_special_tokens_are_added_only_once(vocabulary):
    with pytest.raises(ValueError, match=r"already holds </t5>.*and 38 more"):
        add_special_tokens(vocabulary.tokenizer)


def test_a_saved_tokenizer_is_read_without_its_padding_and_truncation(vocabulary, tmp_path):
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer.to_str())
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    read_back = Vocabulary.from_folder(tmp_path, num_semantic=8, num_residual=4)
    assert read_back.encode("rain and wind<t5>") == vocabulary.encode("rain and wind<t5>")


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Vocabulary.from_folder(tmp_path, num_semantic=1, num_residual=1)


@pytest.mark.parametrize("token", [-1, 388, 10**12])
def test_ids_beyond_the_vocabulary_are_no_text_and_have_a_name(vocabulary, token):
    assert not vocabulary.is_text(token)
    assert vocabulary.name(token) == f"id {token}"
