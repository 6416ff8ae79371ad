"""Values of event types in logs, in English, German and Chinese, and their canonical types."""

import re

from profilestream.capture.detection.column_names import normalize

_EXACT = {
    "view": "view views pv page_view pageview page page_viewed view_item item_view item_viewed product_view "
    "product_viewed "
    "view_product product_detail detail detail_view product_detail_viewed browse browsed viewed visit visited "
    "show_item "
    "screen screen_view content_view view_content viewcontent pages product_page_view look impression_detail "
    "angesehen ansehen aufruf ansicht seitenaufruf produktansicht betrachtet artikel_angesehen 浏览 查看 访问 "
    "浏览商品 看",
    "click": "click clicks clk clicked select_item select_content product_clicked item_click click_item tap "
    "geklickt klick "
    "klicken 点击 单击",
    "cart": "cart carts add_to_cart addtocart add_cart cart_add added_to_cart basket add_to_basket product_added "
    "incart "
    "in_cart atc addcart add_item warenkorb in_den_warenkorb zum_warenkorb_hinzugefügt in_warenkorb 加购 "
    "加购物车 加入购物车 "
    "购物车 加车 添加购物车",
    "uncart": "uncart remove_from_cart removefromcart cart_remove removed_from_cart product_removed remove_cart "
    "delete_from_cart removecart aus_warenkorb_entfernt 移出购物车 删除购物车 取消加购 移除购物车",
    "favorite": "fav favs favorite favourite favorites favorited like liked collect collected collection "
    "bookmark wishlist "
    "add_to_wishlist addtowishlist product_added_to_wishlist add_to_favorites save saved gemerkt merken merkzettel "
    "auf_merkzettel wunschliste wunschzettel favorisiert 收藏 喜欢 点赞 收藏商品 加收藏",
    "unfavorite": "unfavorite unfav unlike remove_from_wishlist product_removed_from_wishlist 取消收藏",
    "purchase": "purchase purchases purchased buy buys bought transaction transactions order orders ordered "
    "order_completed "
    "order_placed order_created completed_purchase checkout_completed paid pay payment sale sales conversion "
    "in_app_purchase "
    "place_order complete_registration_purchase ecommerce_purchase gekauft kauf kaufen bestellt bestellung "
    "verkauf verkauft "
    "购买 下单 支付 成交 付款 买 已购买 交易 buy_item",
    "return": "return returns returned refund refunded order_refunded cancel cancelled canceled cancellation "
    "order_cancelled "
    "order_canceled chargeback retoure retourniert zurückgegeben rückgabe storniert storno erstattet 退货 退款 "
    "取消订单 退单",
    "search": "search searched searches query products_searched view_search_results site_search suche gesucht "
    "suchen 搜索 检索",
    "rate": "rate rating rated bewertet bewertung 评分 打分",
    "review": "review reviewed comment commented product_reviewed write_review rezension kommentar 评论 评价",
    "complaint": "complaint complain beschwerde reklamation 投诉",
    "share": "share shared product_shared cart_shared geteilt teilen 分享 转发",
    "follow": "follow followed subscribe subscribed gefolgt abonniert 关注",
    "identify": "identify identified",
    "exposure": "exposure expose exposed impression impressions imp show shown display displayed view_item_list "
    "product_list_viewed product_impression view_promotion eingeblendet 曝光 展示 展现",
}
_TYPES = {value: event_type for event_type, values in _EXACT.items() for value in values.split()}
# For values that are not listed: the first pattern that occurs in the value; an empty type: not a canonical type.
_PATTERNS = (
    (r"fail|error|abort|begin|start|initiat|checkout|view_cart|cart_view|login|sign_up|register", ""),
    (
        r"(remov|delet|entfern|移|删|取消).*(cart|basket|bag|warenkorb|购物车|加购)|(cart|basket).*(remov|delet)",
        "uncart",
    ),
    (r"(remov|delet|un|取消).*(wish|fav|收藏)", "unfavorite"),
    (r"cancel|refund|return|storn|retour|退货|退款", "return"),
    (r"wish|favo|merk|收藏", "favorite"),
    (r"add.*(cart|basket|bag)|^(cart|basket)|warenkorb|加购|购物车", "cart"),
    (r"purchas|buy|bought|order|gekauft|kauf|bestell|购买|下单|支付", "purchase"),
    (r"search|such|搜索", "search"),
    (r"impression|exposure|曝光", "exposure"),
    (r"click|klick|tap|点击", "click"),
    (r"view|ansicht|seh|visit|browse|浏览", "view"),
    (r"review|comment|评论", "review"),
    (r"rating|bewert|评分", "rate"),
    (r"share|teil|分享", "share"),
)
# Numeric codes of public logs, by the set of their values: Tianchi and Taobao mobile, Tmall, JData.
_CODES = (
    ({"1", "2", "3", "4"}, {"1": "view", "2": "favorite", "3": "cart", "4": "purchase"}, "Taobao and Tianchi logs"),
    ({"0", "1", "2", "3"}, {"0": "click", "1": "cart", "2": "purchase", "3": "favorite"}, "Tmall logs"),
    ({"1", "2", "3", "4", "5", "6"}, {"1": "view", "2": "cart", "3": "uncart", "4": "purchase", "5": "favorite",
                                      "6": "click"}, "JD logs"),
)  # fmt: skip


def canonical_type(value: str) -> tuple[str, bool]:
    """The canonical type of a value, and whether the value is in the list; "" if there is none."""
    name = normalize(value)
    if name in _TYPES:
        return _TYPES[name], True
    for pattern, event_type in _PATTERNS:
        if re.search(pattern, name):
            return event_type, False
    return "", False


def code_types(values: set[str]) -> tuple[dict[str, str], str]:
    """The types of numeric codes, and the logs that use them; empty if the codes are not those of a public log."""
    for codes, types, logs in _CODES:
        if values <= codes and len(values) > 1:
            return {value: types[value] for value in sorted(values)}, logs
    return {}, ""
