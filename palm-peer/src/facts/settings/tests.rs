use super::*;

fn refused(name: &str, text: &str) -> String {
    let mut settings = Settings::default();
    let set = settings.set(name, text);
    set.and_then(|()| settings.build().map(drop)).expect_err(text).to_string()
}

#[test]
fn the_defaults_make_sense() {
    assert_eq!(Settings::default().build(), Ok(Options::default()));
}

#[test]
fn every_name_can_be_set_from_the_environment() {
    let sample = |name: &str| match name {
        "etcd" => "http://a:1, https://b:2",
        "user" => "root:secret:with:colons",
        "prefix" => "/staging",
        "ip" | "bind" => "127.0.0.2",
        "tls" => "required",
        _ => "7",
    };
    let settings = Settings::from_lookup(|variable| {
        Some(sample(&variable.trim_start_matches("PALM_").to_ascii_lowercase()).to_owned())
    })
    .expect("samples fit");
    assert_eq!(settings.etcd, ["http://a:1", "https://b:2"]);
    assert_eq!(settings.user, Some(("root".into(), "secret:with:colons".into())));
    assert_eq!(settings.ttl, Duration::from_secs(7));
    assert_eq!(settings.max_store, 7);
}

#[test]
fn what_cannot_be_is_refused_with_its_name_and_value() {
    for (name, text, words) in [
        ("etcd", "127.0.0.1:2379", "no URL"),
        ("etcd", "", "no URL"),
        ("ttl", "1", "ttl: 1s is not within 2s"),
        ("ttl", "soon", "not a time"),
        ("ttl", "-1", "not a time"),
        ("port", "70000", "not a port"),
        ("prefix", "staging", "must start with /"),
        ("ip", "0.0.0.0", "nobody can reach"),
        ("ip", "db.local", "name the address"),
        ("bind", "db.local", "not an IP address"),
        ("probe_timeout", "20", "longer than probe_period, 10s"),
        ("probe_misses", "0", "within 1 and 100"),
        ("max_in_flight", "0", "within 1 and"),
        ("max_queued_bytes", "9", "9 is less than max_payload, 67108864"),
        ("max_held", "9", "9 is less than max_payload, 67108864"),
        ("cert", "/x.pem", "set both"),
        ("tls", "on", "not auto, off or required"),
        ("user", "root", "name:password"),
        ("colour", "red", "no such setting"),
    ] {
        let error = refused(name, text);
        assert!(error.contains(words), "{name}={text}: {error}");
    }
    let error = Settings::from_lookup(|v| (v == "PALM_PORT").then(|| "x".into())).expect_err("no port");
    assert!(error.to_string().starts_with("PALM_PORT: "), "{error}");
}

#[test]
fn a_password_is_never_shown() {
    let settings = Settings { user: Some(("root".into(), "secret".into())), ..Settings::default() };
    assert!(!format!("{settings:?}").contains("secret"));
}
