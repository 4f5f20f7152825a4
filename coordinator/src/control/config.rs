//! The config of an image of which neither a frontend nor the client says anything: a definition's, as `buildctl build` takes one.

use serde_json::json;

use super::image::OciPlatform;

/// As an engine writes it that is native on this platform (BuildKit's `defaultImageConfig`). Left to the engines, it would be that of
/// whichever agent makes the image: one without commands can be made by any.
pub fn unsaid(platform: &OciPlatform) -> Vec<u8> {
    let mut config = json!(platform);
    config["config"] = json!({ "WorkingDir": "/" });
    if platform.os != "windows" {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        config["config"]["Env"] = json!([path]);
    }
    config["rootfs"] = json!({ "type": "layers", "diff_ids": null });
    config.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_names_the_platform_and_no_path_where_there_is_none_by_default() {
        let of = |os: &str| {
            let platform = OciPlatform {
                os: os.to_owned(),
                architecture: "arm".to_owned(),
                variant: "v7".to_owned(),
                ..OciPlatform::default()
            };
            let config: serde_json::Value = serde_json::from_slice(&unsaid(&platform)).unwrap();
            assert_eq!(
                (&config["os"], &config["architecture"], &config["variant"]),
                (&json!(os), &json!("arm"), &json!("v7"))
            );
            assert_eq!(config["config"]["WorkingDir"], "/");
            config["config"]["Env"].is_array()
        };
        assert_eq!(["linux", "windows"].map(of), [true, false]);
    }
}
