#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mqtt_operator_fuzz::targets::jwks::run(input));
