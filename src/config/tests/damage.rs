//! Whatever stands in a configuration: an answer, never a panic.

use proptest::prelude::*;

use crate::config::{Algorithm, Pattern, QuantizeConfig, presets};
use crate::error::Error;

/// Every message is one line and says something.
fn is_fit(result: Result<(), Error>) -> bool {
    let Err(error) = result else { return true };
    let text = error.to_string();
    !text.contains('\n') && text.len() > 20
}

/// Texts that mean something in a configuration.
const WORDS: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "0",
    "-1",
    "1e300",
    "4.5",
    "\"\"",
    "\"*\"",
    "\"[!\"",
    "\"dynamic\"",
    "{\"enable\": true}",
    "{\"-1\": null}",
    "{\"method\": \"gptq\"}",
    "18446744073709551615",
    "\"\\n\"",
];

proptest! {
    #[test]
    fn a_damaged_preset_is_answered(
        preset in 0..44_usize,
        wounds in prop::collection::vec((any::<prop::sample::Index>(), 0..6_usize, 0..WORDS.len()), 1..4),
    ) {
        let name = presets::names().nth(preset).unwrap();
        let mut text: Vec<u8> = presets::json(name).unwrap().into_bytes();
        for (place, length, word) in wounds {
            let start = place.index(text.len());
            let end = text.len().min(start + length);
            text.splice(start..end, WORDS[word].bytes());
        }
        let text = String::from_utf8(text).unwrap();
        prop_assert!(is_fit(QuantizeConfig::parse(&text).map(drop)), "{text}");
    }

    #[test]
    fn values_in_the_wrong_place_are_answered(key in "[a-z_]{1,12}|num_bits|axis|block_sizes|bias|rotate", word in 0..WORDS.len()) {
        let value = WORDS[word];
        let list = format!("{{\"quant_cfg\": [{{\"quantizer_name\": \"*\", \"cfg\": {{\"{key}\": {value}}}}}]}}");
        prop_assert!(is_fit(QuantizeConfig::parse(&list).map(drop)), "{list}");
        let dictionary = format!("{{\"quant_cfg\": {{\"{key}\": {value}}}}}");
        prop_assert!(is_fit(QuantizeConfig::parse(&dictionary).map(drop)), "{dictionary}");
        let algorithm = format!("{{\"method\": \"gptq\", \"{key}\": {value}}}");
        prop_assert!(is_fit(Algorithm::parse_text(&algorithm).map(drop)), "{algorithm}");
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,40}") {
        prop_assert!(is_fit(QuantizeConfig::parse(&text).map(drop)));
        prop_assert!(is_fit(Algorithm::parse_text(&text).map(drop)));
    }

    #[test]
    fn any_text_is_a_pattern(glob in r"[\[\]!\-^\\*?a-cö]{0,12}", name in "[a-c!ö.]{0,6}") {
        Pattern::new(&glob).unwrap().matches_quantizer(&name);
    }
}
