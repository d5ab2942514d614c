use super::*;

fn refused(name: &str, text: &str) -> String {
    let mut config = Config::default();
    let set = config.set(name, text);
    set.and_then(|()| ValidConfig::new(config).map(drop))
        .expect_err(text)
        .to_string()
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(
        ValidConfig::new(Config::default()),
        Ok(ValidConfig::default())
    );
}

#[test]
fn the_default_texts_are_the_defaults() {
    for setting in Config::SETTINGS {
        let mut config = Config::default();
        // A setting that has no value by default cannot be set to that.
        if !["none", "that of --ip"].contains(&setting.default) {
            config
                .set(setting.name, setting.default)
                .expect(setting.name);
        }
        assert_eq!(config, Config::default(), "{}", setting.name);
    }
}

#[test]
fn settings_of_servers_can_be_dropped() {
    let mut config = Config::default()
        .prefix("/x".into())
        .max_payload(9)
        .port(7)
        .ttl(Duration::from_secs(3));
    config = config.without_server_settings();
    assert_eq!(config, Config::default().prefix("/x".into()).max_payload(9));
}

#[test]
fn every_name_can_be_set_from_the_environment() {
    let sample = |name: &str| match name {
        "etcd" => "http://a:1, https://b:2",
        "user" => "root:secret:with:colons",
        "prefix" => "/staging",
        "ip" | "bind" => "127.0.0.2",
        "tls" => "required",
        "metrics" => "127.0.0.1:9464",
        "metrics_public" | "prefer_zone" => "yes",
        "tags" => "gpu, rack=7,",
        _ => "7",
    };
    let config = Config::from_lookup(|variable| {
        Some(sample(&variable.trim_start_matches("PALM_").to_ascii_lowercase()).into())
    })
    .expect("samples fit");
    assert_eq!(config.etcd, ["http://a:1", "https://b:2"]);
    assert_eq!(
        config.user,
        Some(("root".into(), "secret:with:colons".into()))
    );
    assert_eq!(config.ttl, Duration::from_secs(7));
    assert_eq!(config.max_store, 7);
    assert_eq!(config.tags, ["gpu", "rack=7"]);
    assert_eq!((config.zone.as_str(), config.prefer_zone), ("7", true));
    let config = Config::default().zone("z".into()).prefer_zone(true);
    let preferred = ValidConfig::new(config).map(|config| config.preferred_zone());
    assert_eq!(preferred, Ok(Some("z".into())));
}

#[test]
fn invalid_labels_are_refused() {
    let tags = "x,".repeat(33);
    for (name, text, message) in [
        ("zone", "a b", "zone: \"a b\" is not valid: use 1 to 64"),
        ("zone", "a,b", "without commas"),
        ("tags", "a,b c", "tags: \"b c\" is not valid"),
        ("tags", &tags, "tags: 33 tags, 32 at most"),
        (
            "prefer_zone",
            "maybe",
            "prefer_zone: \"maybe\" is neither yes nor no",
        ),
        (
            "prefer_zone",
            "yes",
            "prefer_zone: there is no zone to prefer",
        ),
    ] {
        let error = refused(name, text);
        assert!(error.contains(message), "{name}={text:?}: {error}");
    }
}

#[test]
fn invalid_values_are_refused_with_name_and_value() {
    for (name, text, message) in [
        ("etcd", "127.0.0.1", "not a URL"),
        ("etcd", "127.0.0.1:99999", "not a URL"),
        ("etcd", "::1:2379", "not a URL"),
        ("etcd", "a:1/etcd", "not a URL"),
        ("etcd", "", "not a URL"),
        ("ttl", "1", "ttl: 1s is not between 2s"),
        ("ttl", "soon", "not a time"),
        ("ttl", "-1", "not a time"),
        ("ttl", "NaN", "not a time"),
        ("ttl", "inf", "not a time"),
        ("ttl", "-inf", "not a time"),
        ("ttl", "1e308", "longer than 24 hours"),
        ("ttl", "1e12", "is not between 2s and 86400s"),
        ("ttl", "", "not a time"),
        ("ttl", "2,5", "not a time"),
        ("ttl", "5x", "not a time"),
        ("ttl", "s", "not a time"),
        ("ttl", "-5s", "not a time"),
        ("ttl", "infs", "not a time"),
        ("ttl", "1e308h", "not a time"),
        ("ttl", "1500ms", "ttl: 1.5s is not between 2s"),
        ("port", "70000", "not a port"),
        ("port", "-1", "not a port"),
        ("port", "", "not a port"),
        ("prefix", "staging", "must start with /"),
        ("prefix", "/a b", "white space"),
        ("prefix", "/a\u{7}", "control"),
        ("prefix", "/a//b", "neither //"),
        ("etcd", "http://a:1,", "a comma too many"),
        ("etcd", "http://a:1/etcd", "after its host"),
        ("etcd", "http://a:99999", "the port \"99999\""),
        ("ip", "", "empty"),
        ("ip", "localhost:5555", "without a port"),
        ("ip", "fe80::1%lo", "zone"),
        ("ip", "0.0.0.0", "cannot be reached"),
        ("ip", "[::]", "cannot be reached"),
        ("ip", "::ffff:0.0.0.0", "cannot be reached"),
        ("ip", "224.0.0.1", "cannot be reached"),
        ("ip", "255.255.255.255", "cannot be reached"),
        ("ip", "db.local", "set bind to the address"),
        ("bind", "db.local", "not an IP address"),
        ("probe_timeout", "20", "longer than probe_period, 10s"),
        ("probe_misses", "0", "between 1 and 100"),
        ("max_in_flight", "0", "between 1 and"),
        (
            "max_queued_bytes",
            "9",
            "9 is less than max_payload, 67108864",
        ),
        ("max_held", "9", "9 is less than max_payload, 67108864"),
        ("max_payload", "0", "not between 1 and"),
        ("metrics", "9464", "is not an IP address and a port"),
        (
            "metrics",
            "localhost:9464",
            "is not an IP address and a port",
        ),
        (
            "metrics",
            "0.0.0.0:9464",
            "metrics: 0.0.0.0:9464 can be reached from other machines",
        ),
        (
            "metrics",
            "[2001:db8::1]:9464",
            "choose an address such as 127.0.0.1:9464, or set metrics_public to yes",
        ),
        ("metrics", "[::ffff:10.0.0.1]:9464", "from other machines"),
        ("metrics_public", "maybe", "\"maybe\" is neither yes nor no"),
        (
            "max_payload",
            "18446744073709551615",
            "not between 1 and 1099511627776",
        ),
        ("max_payload", "-1", "not a number"),
        ("bind", "0.0.0.0:5555", "an IP address alone"),
        #[cfg(feature = "tls")]
        ("cert", "/x.pem", "set both"),
        ("cert", "", "not the path of a file"),
        ("key", "/x.pem\r", "not the path of a file"),
        ("tls", "on", "not auto, off or required"),
        ("user", "root", "name:password"),
        ("user", ":secret", "name:password"),
        ("user", "", "name:password"),
        ("colour", "red", "no such setting"),
    ] {
        let error = refused(name, text);
        assert!(error.contains(message), "{name}={text}: {error}");
    }
    let error =
        Config::from_lookup(|v| (v == "PALM_PORT").then(|| "x".into())).expect_err("no port");
    assert!(error.to_string().starts_with("PALM_PORT: "), "{error}");
}

#[test]
fn times_may_have_units() {
    for (text, millis) in [
        ("2.5", 2500),
        ("500ms", 500),
        (" 2s ", 2000),
        ("1.5 s", 1500),
        ("1m", 60_000),
        ("2h", 7_200_000),
        ("1e3", 1_000_000),
    ] {
        let mut config = Config::default();
        config.set("timeout", text).expect(text);
        assert_eq!(config.timeout, Duration::from_millis(millis), "{text}");
    }
}

#[test]
fn the_scheme_of_etcd_may_be_left_out() {
    let etcd = |text: &str, cacert: bool| {
        let mut config = Config::default();
        config.set("etcd", text).expect(text);
        config.cacert = cacert.then(|| "/ca.pem".into());
        ValidConfig::new(config).map(|config| config.etcd.clone())
    };
    assert_eq!(
        etcd("localhost:2379, [::1]:1,HTTP://b:2/", false),
        Ok(vec![
            "http://localhost:2379".into(),
            "http://[::1]:1".into(),
            "http://b:2".into()
        ])
    );
    if cfg!(feature = "tls") {
        assert_eq!(
            etcd("db:2379", true),
            Ok(vec!["https://db:2379".to_owned()])
        );
    }
}

#[test]
fn a_password_is_never_shown() {
    let config = Config::default().user(Some(("root".into(), "secret".into())));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
#[cfg(feature = "tls")]
fn valid_values_are_accepted() {
    for (name, text, field) in [
        (
            "etcd",
            " HTTP://a:1/ ,https://[::1]:2",
            r#"["http://a:1", "https://[::1]:2"]"#,
        ),
        ("ip", "[::1]", r#""::1""#),
        ("ip", " ::ffff:127.0.0.1 ", r#""::ffff:127.0.0.1""#),
        ("bind", "[::1]", "::1"),
        ("prefix", "/staging/", r#""/staging/""#),
    ] {
        let mut config = Config::default();
        config.set(name, text).expect(text);
        let built = ValidConfig::new(config).expect(text);
        let fields = [
            ("etcd", format!("{:?}", built.etcd)),
            ("ip", format!("{:?}", built.ip)),
            (
                "bind",
                built.bind.map(|bind| bind.to_string()).unwrap_or_default(),
            ),
            ("prefix", format!("{:?}", built.prefix)),
        ];
        assert!(
            fields.contains(&(name, field.to_owned())),
            "{name}={text}: {fields:?}"
        );
    }
    // Values set by a program are normalised as well.
    let config = Config::default()
        .etcd(vec!["HTTPS://a:1/".into()])
        .ip("[::1]".into());
    let built = ValidConfig::new(config).expect("a URL and an address");
    assert_eq!(
        (built.etcd[0].as_str(), built.ip.as_str()),
        ("https://a:1", "::1")
    );
}

#[test]
fn a_password_is_taken_as_it_is() {
    for password in ["", " ", "secret ", " secret", "a:b@c%\"'$,=", "ä", "\u{a0}"] {
        let mut config = Config::default();
        config
            .set("user", &format!("root:{password}"))
            .expect(password);
        assert_eq!(config.user, Some(("root".into(), password.into())));
    }
    for (text, message) in [
        ("root:secret\n", "line break"),
        ("root:secret\r\n", "line break"),
        ("root:a\u{1b}", "control"),
    ] {
        let error = refused("user", text);
        assert!(
            error.contains(message) && !error.contains("secret"),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn values_that_are_not_utf8_are_paths_or_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    let odd = || std::ffi::OsString::from_vec(b"/odd-\xff.pem".to_vec());
    for (name, variable) in Config::SETTINGS
        .iter()
        .map(|setting| (setting.name, setting.variable()))
    {
        let found = Config::from_lookup(|looked_up| (looked_up == variable).then(odd));
        if ["cacert", "cert", "key"].contains(&name) {
            let config = found.expect("a path");
            assert!(
                [config.cacert, config.cert, config.key].contains(&Some(odd().into())),
                "{name}"
            );
        } else {
            let error = found.expect_err(name).to_string();
            assert_eq!(error, format!("{variable}: the value is not valid UTF-8"));
        }
    }
    let error = log_level(Some(&odd())).expect_err("no level").to_string();
    assert!(error.starts_with("PALM_LOG: "), "{error}");
}

#[test]
fn metrics_are_public_only_if_that_is_said() {
    for (address, public, valid) in [
        ("127.0.0.1:0", "no", true),
        ("[::1]:9464", "no", true),
        ("[::ffff:127.0.0.1]:9464", "no", true),
        ("0.0.0.0:9464", "no", false),
        ("0.0.0.0:9464", "yes", true),
        ("10.0.0.1:9464", "true", true),
    ] {
        let mut config = Config::default();
        config.set("metrics", address).expect(address);
        config.set("metrics_public", public).expect(public);
        assert_eq!(config.validate().is_ok(), valid, "{address} {public}");
    }
}
